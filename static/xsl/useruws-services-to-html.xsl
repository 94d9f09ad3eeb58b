<?xml version="1.0" encoding="UTF-8"?>
<!-- The services as a page, at {base}/. -->
<xsl:stylesheet version="1.0"
    xmlns:xsl="http://www.w3.org/1999/XSL/Transform"
    xmlns:s="urn:uwsd:service"
    exclude-result-prefixes="s">

  <xsl:import href="page.xsl"/>

  <xsl:template match="/s:services">
    <xsl:call-template name="page">
      <xsl:with-param name="title" select="'Services'"/>
      <xsl:with-param name="root" select="'./'"/>
      <xsl:with-param name="main">
        <h1>Services</h1>
        <xsl:choose>
          <xsl:when test="s:service"><ul class="services"><xsl:apply-templates select="s:service"/></ul></xsl:when>
          <xsl:otherwise><p>None are offered.</p></xsl:otherwise>
        </xsl:choose>
      </xsl:with-param>
    </xsl:call-template>
  </xsl:template>

  <xsl:template match="s:service">
    <li>
      <h2><a href="./{@name}"><xsl:value-of select="s:title"/></a></h2>
      <xsl:if test="s:description"><p class="text"><xsl:value-of select="s:description"/></p></xsl:if>
      <p><a href="./{@name}/async"><xsl:value-of select="concat('Jobs of ', s:title)"/></a></p>
    </li>
  </xsl:template>

</xsl:stylesheet>
