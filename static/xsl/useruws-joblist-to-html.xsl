<?xml version="1.0" encoding="UTF-8"?>
<!--
  A UWS 1.1 job list as a page: one row a job, and what of the list is shown.

  The document's address is {base}/{service}/async or {base}/{service}/uws.xml.
-->
<xsl:stylesheet version="1.0"
    xmlns:xsl="http://www.w3.org/1999/XSL/Transform"
    xmlns:uws="http://www.ivoa.net/xml/UWS/v1.0"
    xmlns:xlink="http://www.w3.org/1999/xlink"
    exclude-result-prefixes="uws xlink">

  <xsl:import href="page.xsl"/>

  <xsl:variable name="service" select="string(/processing-instruction('uwsd-service'))"/>
  <xsl:variable name="phase" select="string(/processing-instruction('uwsd-phase'))"/>
  <!-- Filters that have no field: name and value. -->
  <xsl:variable name="kept" select="/processing-instruction('uwsd-kept')"/>
  <xsl:variable name="text" select="string(/processing-instruction('uwsd-text'))"/>
  <xsl:variable name="after" select="string(/processing-instruction('uwsd-after'))"/>
  <xsl:variable name="next" select="string(/processing-instruction('uwsd-next'))"/>
  <xsl:variable name="first" select="string(/processing-instruction('uwsd-first'))"/>

  <xsl:template match="/uws:jobs">
    <xsl:call-template name="page">
      <xsl:with-param name="title" select="concat('Jobs of ', $service)"/>
      <xsl:with-param name="root" select="'../'"/>
      <xsl:with-param name="live">
        <xsl:text>async/events</xsl:text>
        <xsl:for-each select="/processing-instruction('uwsd-position')"><xsl:value-of select="concat('?after=', .)"/></xsl:for-each>
      </xsl:with-param>
      <xsl:with-param name="crumbs">
        <li><a href="./"><xsl:value-of select="$service"/></a></li>
        <li><a href="async" aria-current="page">Jobs</a></li>
      </xsl:with-param>
      <xsl:with-param name="main">
        <h1><xsl:value-of select="concat('Jobs of ', $service)"/></h1>
        <p><a href="./" class="button">New job</a></p>
        <xsl:call-template name="filter"/>
        <div id="jobs">
          <xsl:choose>
            <xsl:when test="uws:jobref">
              <div class="scroll" role="region" aria-label="Table of jobs" tabindex="0">
                <table>
                  <thead>
                    <tr>
                      <th scope="col">Job</th>
                      <th scope="col">Phase</th>
                      <th scope="col">Created</th>
                      <th scope="col">Ended</th>
                      <xsl:if test="uws:jobref/uws:ownerId != ''"><th scope="col">Owner</th></xsl:if>
                    </tr>
                  </thead>
                  <tbody><xsl:apply-templates select="uws:jobref"/></tbody>
                </table>
              </div>
            </xsl:when>
            <xsl:when test="$phase != '' or $text != '' or $after != '' or $kept"><p>No job is like that.</p></xsl:when>
            <xsl:otherwise><p>There are none.</p></xsl:otherwise>
          </xsl:choose>
          <xsl:if test="$next != '' or $first != ''">
            <nav aria-label="Pages" class="pages">
              <xsl:if test="$first != ''">
                <xsl:call-template name="link">
                  <xsl:with-param name="text" select="'Newest jobs'"/>
                  <xsl:with-param name="url" select="$first"/>
                </xsl:call-template>
              </xsl:if>
              <xsl:if test="$next != ''">
                <xsl:call-template name="link">
                  <xsl:with-param name="text" select="'Older jobs'"/>
                  <xsl:with-param name="url" select="$next"/>
                </xsl:call-template>
              </xsl:if>
            </nav>
          </xsl:if>
        </div>
      </xsl:with-param>
    </xsl:call-template>
  </xsl:template>

  <xsl:template name="filter">
    <form class="filter" role="search" aria-label="Which jobs are shown" action="async">
      <div>
        <label for="phase">Phase</label>
        <select id="phase" name="PHASE">
          <option value="">any</option>
          <xsl:call-template name="phases"/>
        </select>
      </div>
      <div>
        <label for="text">Text in it</label>
        <input id="text" name="TEXT" type="search" value="{$text}"/>
      </div>
      <div>
        <label for="after">Created after (UTC)</label>
        <input id="after" name="AFTER" type="datetime-local" step="1" value="{$after}"/>
      </div>
      <xsl:for-each select="$kept">
        <xsl:variable name="name" select="substring-before(., ' ')"/>
        <xsl:variable name="value" select="substring-after(., ' ')"/>
        <div>
          <label><input type="checkbox" name="{$name}" value="{$value}" checked="checked"/><xsl:value-of select="concat(' ', $name, ': ', $value)"/></label>
        </div>
      </xsl:for-each>
      <button>Show</button>
    </form>
  </xsl:template>

  <!-- An option for each word. -->
  <xsl:template name="phases">
    <xsl:param name="of" select="'PENDING QUEUED EXECUTING COMPLETED ERROR ABORTED HELD SUSPENDED UNKNOWN ARCHIVED '"/>
    <xsl:variable name="one" select="substring-before($of, ' ')"/>
    <xsl:if test="$one != ''">
      <option>
        <xsl:if test="$one = $phase"><xsl:attribute name="selected">selected</xsl:attribute></xsl:if>
        <xsl:value-of select="$one"/>
      </option>
      <xsl:call-template name="phases"><xsl:with-param name="of" select="substring-after($of, ' ')"/></xsl:call-template>
    </xsl:if>
  </xsl:template>

  <xsl:template match="uws:jobref">
    <tr>
      <th scope="row" class="id">
        <a>
          <xsl:attribute name="href">
            <xsl:variable name="url">
              <xsl:call-template name="safe-url"><xsl:with-param name="url" select="@xlink:href"/></xsl:call-template>
            </xsl:variable>
            <xsl:choose>
              <xsl:when test="$url != ''"><xsl:value-of select="$url"/></xsl:when>
              <xsl:otherwise><xsl:value-of select="concat('async/', @id)"/></xsl:otherwise>
            </xsl:choose>
          </xsl:attribute>
          <xsl:choose>
            <xsl:when test="uws:runId != ''"><xsl:value-of select="uws:runId"/></xsl:when>
            <xsl:otherwise><xsl:value-of select="@id"/></xsl:otherwise>
          </xsl:choose>
        </a>
        <xsl:if test="processing-instruction('uwsd-execution') = 'sync'"><xsl:text> </xsl:text><span class="faint">(synchronous)</span></xsl:if>
      </th>
      <td>
        <span class="phase {uws:phase}"><xsl:value-of select="uws:phase"/></span>
        <xsl:for-each select="processing-instruction('uwsd-progress')"><xsl:value-of select="concat(' ', format-number(., '0%'))"/></xsl:for-each>
      </td>
      <td><xsl:for-each select="uws:creationTime[. != '']"><xsl:call-template name="time"/></xsl:for-each></td>
      <td><xsl:for-each select="processing-instruction('uwsd-ended')"><xsl:call-template name="time"/></xsl:for-each></td>
      <xsl:if test="../uws:jobref/uws:ownerId != ''"><td><xsl:value-of select="uws:ownerId"/></td></xsl:if>
    </tr>
  </xsl:template>

</xsl:stylesheet>
