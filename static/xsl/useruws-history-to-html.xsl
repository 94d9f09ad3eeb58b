<?xml version="1.0" encoding="UTF-8"?>
<!-- What happened to a job as a page, at {base}/{service}/async/{id}/history. -->
<xsl:stylesheet version="1.0"
    xmlns:xsl="http://www.w3.org/1999/XSL/Transform"
    xmlns:h="urn:uwsd:history"
    exclude-result-prefixes="h">

  <xsl:import href="page.xsl"/>

  <xsl:template match="/h:history">
    <xsl:call-template name="page">
      <xsl:with-param name="title" select="concat('History of job ', @job)"/>
      <xsl:with-param name="root" select="'../../../'"/>
      <xsl:with-param name="crumbs">
        <li><a href="../../async">Jobs</a></li>
        <li><a href="../{@job}"><xsl:value-of select="concat('Job ', @job)"/></a></li>
        <li><span aria-current="page">History</span></li>
      </xsl:with-param>
      <xsl:with-param name="main">
        <h1><xsl:value-of select="concat('History of job ', @job)"/></h1>
        <ol class="timeline"><xsl:apply-templates select="h:event"/></ol>
      </xsl:with-param>
    </xsl:call-template>
  </xsl:template>

  <xsl:template match="h:event">
    <li>
      <xsl:call-template name="time"><xsl:with-param name="of" select="@time"/></xsl:call-template>
      <xsl:text> </xsl:text>
      <span class="text"><xsl:value-of select="."/></span>
      <xsl:text> </xsl:text>
      <span class="faint">
        <xsl:choose>
          <xsl:when test="@actor = 'uwsd'">by the server</xsl:when>
          <xsl:when test="@actor"><xsl:value-of select="concat('by ', @actor)"/></xsl:when>
        </xsl:choose>
      </span>
    </li>
  </xsl:template>

</xsl:stylesheet>
